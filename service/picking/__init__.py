"""Routes in the user's words: their settings, and the chooser that picks among them."""
