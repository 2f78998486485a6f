"""The quickstart: finetune the shipped models on BBC News, and measure.

`python -m coda_jax.quickstart`, or scripts/quickstart.sh, which installs first.
"""
