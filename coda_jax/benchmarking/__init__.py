"""The subjects of `python -m coda_jax.benchmark`: models, peers, soft top-k."""
