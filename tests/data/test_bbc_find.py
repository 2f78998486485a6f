from coda_jax.data import bbc, bbc_find


def article(body):
  return bbc.Article("tech", "Title", body)


def test_the_answer_follows_the_words_that_are_asked_for():
  bodies = [
    " ".join(f"w{i * j % 97}" for i in range(200)) for j in range(1, 30)
  ]
  found = bbc_find.questions([article(body) for body in bodies])
  assert len(found) == len(bodies)
  places = set()
  for body, question in zip(bodies, found, strict=True):
    words = body.split()[:120]
    assert question.passage == " ".join(words)
    assert question.text == f"find: {question.asked} in: {question.passage}"
    assert question.passage.count(question.asked) == 1
    assert f"{question.asked} {question.answer}" in question.passage
    assert len(question.asked.split()) == 4
    assert len(question.answer.split()) == 8
    places.add(words.index(question.asked.split()[0]) // 40)
  assert places == {0, 1, 2}  # anywhere
  assert bbc_find.questions([article(body) for body in bodies]) == found


def test_a_text_without_words_of_its_own_has_no_question():
  assert bbc_find.questions([article("one two"), article("a " * 50)]) == []
  assert len(bbc_find.questions([article("a b c d e f g h i j k l")])) == 1
