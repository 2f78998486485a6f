"""Checkpoints in and out: whole models, and adapters as small files."""

from coda_jax.checkpoints.adapter import load_adapter, save_adapter
from coda_jax.checkpoints.pretrained import load_pretrained

__all__ = ["load_adapter", "load_pretrained", "save_adapter"]
