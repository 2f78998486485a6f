"""Tables of names: placeholders, both ways."""

from coda_jax.checkpoints import name_table

ROWS = (
  ("block.{i}.{p}.weight", "layers_{i}/{p}/kernel", True),
  ("block.{i}.norm", "layers_{i}/norm/scale", False),
  ("a+b.{w}", "sum/{w}", False),
)
WORDS = {
  "p": {"q": "query", "o": "out"},
  "w": {"wi": "wi", "wi_0": "wi_0"},
}
PAIRS = {
  "block.0.q.weight": ("layers_0/query/kernel", True),
  "block.12.o.weight": ("layers_12/out/kernel", True),
  "block.3.norm": ("layers_3/norm/scale", False),
  "a+b.wi": ("sum/wi", False),
  "a+b.wi_0": ("sum/wi_0", False),
}


def test_names_translate_both_ways():
  for name, (path, transposed) in PAIRS.items():
    assert name_table.to_path(name, ROWS, WORDS) == (path, transposed)
    assert name_table.to_name(path, ROWS, WORDS) == (name, transposed)


def test_other_names_have_no_path():
  for name in (
    "block.0.k.weight",
    "block.x.q.weight",
    "block.0.q.weight.more",
    "more.block.0.norm",
    "block_0_norm",  # "." is itself
    "aab.wi",
    "block.0.query.weight",
  ):
    assert name_table.to_path(name, ROWS, WORDS) == (None, False)
  for path in ("layers_0/q/kernel", "layers_0/norm", "sum/wi_1"):
    assert name_table.to_name(path, ROWS, WORDS) == (None, False)
