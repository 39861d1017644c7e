"""The learning loop: what makes a better router out of one-sided logs, safely."""
