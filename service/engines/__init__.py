"""What answers at the addresses of the pool: which engine, in what health, and which models it serves."""
