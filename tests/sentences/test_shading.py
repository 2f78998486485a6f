from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

import coda_jax
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.sentences import embedding, shading
from coda_jax.sentences.shading import Piece

SVG = "{http://www.w3.org/2000/svg}"
WORDS = "the a cat dog sat ran on mat".split()
TEXT = "The cat  sat on the mat, a dog ran on."


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "bert"
  path.mkdir()
  testing.save_sentence_encoder(path, [*WORDS, ",", "."])
  coda = CodaConfig(reduction=3, bottleneck_dim=2)
  return *coda_jax.load_pretrained(path, coda=coda), path


def test_shades_what_the_routers_chose(encoder):
  model, params, path = encoder
  tokenizer = embedding.load_sentences(path).tokenizer
  found = shading.pieces(model, params, tokenizer, TEXT, max_length=12)
  assert "".join(piece.text for piece in found) == TEXT
  # [CLS], ten tokens of the text, [SEP]; the rest is cut off.
  ids = tokenizer.encode_batch([TEXT], max_length=12).input_ids
  _, routing = model.apply(
    {"params": params},
    encoder_input_tokens=jnp.asarray(ids),
    encoder_token_types=jnp.zeros_like(ids),
    encoder_mask=jnp.ones(ids.shape, bool),
    enable_dropout=False,
    return_routing=True,
    method="encode",
  )
  expected = np.zeros(12)
  for selection in routing:
    expected[np.asarray(selection.indices)[0]] += 1 / len(routing)
  tokens = [piece for piece in found if piece.share is not None]
  assert [piece.text for piece in tokens] == (
    "The cat sat on the mat , a dog ran".split()
  )
  np.testing.assert_allclose([p.share for p in tokens], expected[1:-1])
  assert found[-1] == Piece(" on.", None)


def test_a_dense_model_has_nothing_to_show(encoder):
  _, _, path = encoder
  tokenizer = embedding.load_sentences(path).tokenizer
  model, params = coda_jax.load_pretrained(path)
  with pytest.raises(ValueError, match="does not route"):
    shading.pieces(model, params, tokenizer, TEXT, max_length=12)


def test_the_picture_has_the_text_and_its_marks():
  long = "x" * 100
  texts = [
    [Piece("a<b", 1.0), Piece(" ", None), Piece("&c", 0.5), Piece("d", 0.0)],
    [Piece("one", 0.0), Piece(" two", None), Piece(long, 1.0)],
  ]
  root = ElementTree.fromstring(shading.draw(texts))
  letters = root.findall(f"{SVG}text")
  said = "".join(element.text for element in letters)
  assert said == "a<b &cdone two" + long
  background, *marks = root.findall(f"{SVG}rect")
  opacities = [float(mark.get("fill-opacity")) for mark in marks]
  assert opacities == pytest.approx([0.45, 0.225, 0.45, 0.45], abs=0.01)
  # Marks stand behind their letters, and nothing leaves the picture.
  assert marks[0].get("x") == letters[0].get("x")
  for mark in marks:
    right = float(mark.get("x")) + float(mark.get("width"))
    assert right <= float(root.get("width"))
    bottom = float(mark.get("y")) + float(mark.get("height"))
    assert bottom <= float(root.get("height"))
