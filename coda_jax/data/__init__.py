"""seqio tasks, preprocessors, metrics, vocabularies and tokenizers.

Most modules import tensorflow, so the entry points import them, and
`import coda_jax` does not. `hf_tokenizer`, `table_files`, `text_settings` and
`texts` need neither tensorflow nor seqio.
"""
