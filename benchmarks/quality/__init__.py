"""The leaderboard: every router over every data set, and the pages rendered from the results."""
