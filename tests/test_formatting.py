from coda_jax import formatting


def test_format_seconds():
  assert formatting.format_seconds(59.6) == "1:00"
  assert formatting.format_seconds(3723) == "1:02:03"
