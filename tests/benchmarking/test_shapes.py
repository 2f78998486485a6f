import pytest

from coda_jax.benchmarking import shapes


def test_sizes_are_those_of_the_gin_files():
  base = shapes.size_config("base", "bfloat16")
  assert (base.emb_dim, base.num_heads, base.mlp_dim) == (768, 12, 2048)
  assert base.dtype == "bfloat16" and base.coda is None
  byt5 = shapes.size_config("byt5_small")
  assert (byt5.emb_dim, byt5.vocab_size) == (1472, 384)
  assert shapes.size_config("t5_1_0_small").mlp_activations == ("relu",)
  with pytest.raises(ValueError, match="size 'huge'; expected one of base"):
    shapes.size_config("huge")
