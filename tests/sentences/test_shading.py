import html.parser
from xml.etree import ElementTree

import jax
import numpy as np
import pytest

import coda_jax
from coda_jax import testing
from coda_jax.nn.config import CodaConfig
from coda_jax.sentences import embedding, shading
from coda_jax.sentences.shading import Piece

SVG = "{http://www.w3.org/2000/svg}"
WORDS = "the a cat dog sat ran on mat".split()
TEXTS = ["The cat  sat on the mat, a dog ran on.", "a <cat> & the dog"]
# Of 12 tokens: [CLS], ten of the text, [SEP].
TOKENS = ["The cat sat on the mat , a dog ran", "a < cat > & the dog"]
LENGTH = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("model") / "bert"
  path.mkdir()
  testing.save_sentence_encoder(path, [*WORDS, *",.<>&"], num_encoder_layers=4)
  return path


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def shared(request):
  return request.param


@pytest.fixture
def encoder(folder, shared):
  """The first layer sees all tokens; in the picture it does not count."""
  coda = CodaConfig(
    reduction=3,
    bottleneck_dim=2,
    layer_reductions=((0, 1),),
    shared_router=shared,
  )
  model, params = coda_jax.load_pretrained(folder, coda=coda)
  return model, params, embedding.load_sentences(folder).tokenizer


@pytest.fixture
def shaded(encoder):
  return shading.pieces(*encoder, TEXTS, max_length=LENGTH)


@pytest.fixture
def expected(encoder):
  """(token, share) of each text, encoded alone and without padding."""
  model, params, tokenizer = encoder

  @jax.jit
  def route(ids):
    return model.apply(
      {"params": params},
      encoder_input_tokens=ids,
      encoder_token_types=0 * ids,
      encoder_mask=ids >= 0,
      enable_dropout=False,
      return_routing=True,
      method="encode",
    )[1]

  found = []
  for text, tokens in zip(TEXTS, TOKENS, strict=True):
    ids = tokenizer.encode_batch([text], max_length=LENGTH).input_ids
    shares = np.zeros(ids.shape[1])
    dense, *routed = route(ids)
    assert dense is None
    for selection in routed:
      shares[np.asarray(selection.indices)[0]] += 1 / len(routed)
    found.append(list(zip(tokens.split(), shares[1:-1].tolist(), strict=True)))
  return found


class Reader(html.parser.HTMLParser):
  """The texts of a page's articles, and their shaded pieces."""

  def __init__(self, page):
    super().__init__()
    self.texts, self.pieces = [], []
    self.share = None
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    assert not {"src", "href"} & attrs.keys()
    if tag == "article":
      self.texts.append("")
      self.pieces.append([])
    self.share = attrs.get("style", "").removeprefix("--s:")

  def handle_endtag(self, tag):
    self.share = None

  def handle_data(self, data):
    if self.texts and self.share is not None:
      self.texts[-1] += data
      if self.share:
        self.pieces[-1].append((data, float(self.share)))


def test_shades_what_the_routers_chose(shaded, expected, shared):
  assert ["".join(piece.text for piece in one) for one in shaded] == TEXTS
  for one, right in zip(shaded, expected, strict=True):
    tokens = [piece for piece in one if piece.share is not None]
    assert [piece.text for piece in tokens] == [token for token, _ in right]
    shares = [piece.share for piece in tokens]
    np.testing.assert_allclose(shares, [share for _, share in right], rtol=1e-6)
    assert not shared or set(shares) == {0, 1}
  assert shaded[0][-1] == Piece(" on.", None)


def test_the_page_is_the_text_with_its_shares(shaded, expected):
  page = Reader(shading.page(shaded))
  assert page.texts == TEXTS
  for found, right in zip(page.pieces, expected, strict=True):
    assert found == [(token, round(share, 2)) for token, share in right]


def test_the_picture_is_the_text_with_marks_behind_it(shaded, expected):
  root = ElementTree.fromstring(shading.draw(shaded))
  letters = root.findall(f"{SVG}text")
  assert "".join(element.text for element in letters) == "".join(TEXTS)
  background, *marks = root.findall(f"{SVG}rect")
  assert background.get("fill") == "#ffffff"
  at = {
    (element.get("x"), float(element.get("y")) - 14): element.text
    for element in letters
  }
  found = [
    (
      at[mark.get("x"), float(mark.get("y"))],
      float(mark.get("fill-opacity")) / 0.45,
    )
    for mark in marks
  ]
  chosen = [piece for one in expected for piece in one if piece[1]]
  assert [text for text, _ in found] == [text for text, _ in chosen]
  np.testing.assert_allclose(
    [share for _, share in found], [share for _, share in chosen], atol=0.02
  )


def test_lines_end_between_words():
  long = "x" * 100
  pieces = [Piece("y" * 90, 0.0), Piece(" ", None), Piece("rout", 1.0)]
  pieces += [Piece("er", 0.5), Piece(" \n", None), Piece(long, 1.0)]
  root = ElementTree.fromstring(shading.draw([pieces]))
  lines = {}
  for element in root.findall(f"{SVG}text"):
    lines.setdefault(element.get("y"), []).append(element.text)
  assert ["".join(line) for line in lines.values()] == [
    "y" * 90 + " ",
    "router \n",
    "x" * 96,
    "x" * 4,
  ]
  # Nothing leaves the picture.
  for mark in root.findall(f"{SVG}rect")[1:]:
    right = float(mark.get("x")) + float(mark.get("width"))
    assert right <= float(root.get("width"))
    bottom = float(mark.get("y")) + float(mark.get("height"))
    assert bottom <= float(root.get("height"))


def test_the_picture_is_xml_whatever_the_text():
  picture = shading.draw([[Piece("a\x00\x0c\ufffe]]>b", 1.0)]])
  (letters,) = ElementTree.fromstring(picture).findall(f"{SVG}text")
  assert letters.text == "a\ufffd\ufffd\ufffd]]>b"


def test_a_dense_model_has_nothing_to_show(folder):
  tokenizer = embedding.load_sentences(folder).tokenizer
  model, params = coda_jax.load_pretrained(folder)
  with pytest.raises(ValueError, match="does not route"):
    shading.pieces(model, params, tokenizer, TEXTS, max_length=LENGTH)
