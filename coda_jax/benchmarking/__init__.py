"""What `python -m coda_jax.benchmark` times: our models, peers, soft top-k."""
