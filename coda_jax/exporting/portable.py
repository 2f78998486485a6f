"""StableHLO as the released TensorFlow reads it, which lags behind jax."""

from jax import export as jax_export
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, func, sdy, stablehlo

# The StableHLO of tensorflow 2.21. What jax writes itself is too new for it.
STABLEHLO_VERSION = "1.13.7"


def for_tensorflow(program: jax_export.Exported) -> bytes:
  """A program's module, in an older version and without composites.

  A composite is an operation with its meaning in others beside it: jax writes
  top_k so, which beam search and routers use. XlaCallModule fixes the batch
  size in the function that it calls, but not in a composite's definition, and
  then refuses the symbolic batch that is left there. Calls of that definition
  mean the same, and it follows calls.
  """
  context = ir.Context()
  for dialect in (chlo, sdy, stablehlo):
    dialect.register_dialect(context)
  with context, ir.Location.unknown():
    module = stablehlo.deserialize_portable_artifact(
      context, program.mlir_module_serialized
    )
    for composite in _composites(module):
      with ir.InsertionPoint(composite):
        call = func.CallOp(
          [result.type for result in composite.results],
          composite.attributes["decomposition"],
          list(composite.operands),
        )
      for old, new in zip(composite.results, call.results, strict=True):
        old.replace_all_uses_with(new)
      composite.erase()
    return stablehlo.serialize_portable_artifact(module, STABLEHLO_VERSION)


def _composites(module: ir.Module) -> list[ir.Operation]:
  found = []

  def visit(operation: ir.Operation) -> ir.WalkResult:
    if operation.name == "stablehlo.composite":
      found.append(operation)
    return ir.WalkResult.ADVANCE

  module.operation.walk(visit)
  return found
