import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coda_jax.under_t5x import saved_model

tf = pytest.importorskip("tensorflow")


def exported(folder):
  """A SavedModel of jax2tf's, t5x.export's way, with top_k and a mesh."""
  from jax.experimental import jax2tf

  mesh = jax.sharding.Mesh(jax.devices()[:1], ("model",))
  spec = jax.sharding.PartitionSpec("model")

  @jax.jit
  def best(x):
    sharding = jax.sharding.NamedSharding(mesh, spec)
    return jax.lax.top_k(jax.lax.with_sharding_constraint(x, sharding), 2)

  module = tf.Module()
  module.best = tf.function(
    jax2tf.convert(best, with_gradient=False, polymorphic_shapes=["b, ..."]),
    autograph=False,
    input_signature=[tf.TensorSpec([None, 4], tf.float32)],
  )
  tf.saved_model.save(module, str(folder))


@pytest.mark.filterwarnings("ignore")  # Of jax2tf, and of tensorflow with it.
def test_a_program_is_read_by_tensorflow(tmp_path):
  exported(tmp_path)
  x = np.array([[3, 1, 4, 1], [5, 9, 2, 6], [5, 3, 5, 8]], np.float32)
  assert saved_model.main([str(tmp_path)]) == 0
  values, indices = tf.saved_model.load(str(tmp_path)).best(jnp.asarray(x))
  np.testing.assert_array_equal(values, [[4, 3], [9, 6], [8, 5]])
  np.testing.assert_array_equal(indices, [[2, 0], [1, 3], [3, 0]])
  assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_is_no_export_is_refused(tmp_path, capsys):
  assert saved_model.main([str(tmp_path)]) == 2
  assert "saved_model.pb does not exist" in capsys.readouterr().err
  (tmp_path / saved_model.FILE).write_bytes(b"\xff" * 9)
  assert saved_model.main([str(tmp_path)]) == 2
  assert "Cannot parse" in capsys.readouterr().err
  (tmp_path / saved_model.FILE).write_bytes(b"")
  assert saved_model.main([str(tmp_path)]) == 2
  assert "contains no jax program" in capsys.readouterr().err
