"""CSCR and RouterDC: trained with progress, early stopping and checkpoints, exported, compared."""
