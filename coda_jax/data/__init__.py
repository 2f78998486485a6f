"""seqio tasks, preprocessors and metrics; imports tensorflow.

Imported by the entry points only, never by `import coda_jax`.
"""
