"""seqio tasks, preprocessors and metrics; all but `texts` import tensorflow.

So those are imported by the entry points only, never by `import coda_jax`.
"""
