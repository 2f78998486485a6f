from coda_jax.training import profiling


def test_rate(monkeypatch):
  now = [10.0]
  monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
  rate = profiling.Rate(3)
  now[0] = 12.0
  assert rate.measure(8) == (2.5, 0.0)
  now[0] = 20.0
  rate.reset(9)
  with rate.waiting():
    now[0] = 20.25
  now[0] = 21.0
  assert rate.measure(11) == (2.0, 0.25)
