"""Models that join, leave, follow each other and change their price, without training and without a restart."""
