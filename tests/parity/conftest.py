import pytest


@pytest.fixture(scope="session")
def randomised():
  """Makes a fresh torch T5 one in which no two weights could be swapped."""
  torch = pytest.importorskip("torch")

  def change(model, *, tied):
    if not tied:
      # transformers 5 ties new models whatever the config says, and leaves
      # apart the two matrices of a checkpoint that has both.
      weight = torch.randn_like(model.shared.weight)
      model.lm_head.weight = torch.nn.Parameter(weight)
    with torch.no_grad():  # norms start at 1, which hides a swap of two
      for name, weight in model.named_parameters():
        if "layer_norm" in name:
          weight.add_(0.2 * torch.randn_like(weight))
    return model.eval()

  return change
