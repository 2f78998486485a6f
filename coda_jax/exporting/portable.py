"""StableHLO as the released TensorFlow reads it, which lags behind jax."""

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, func, sdy, stablehlo

# The StableHLO of tensorflow 2.21. What jax writes itself is too new for it.
STABLEHLO_VERSION = "1.13.7"


def for_tensorflow(module: bytes) -> bytes:
  """A serialized module, in an older version and without composites.

  A composite is an operation with its meaning in others beside it: jax writes
  top_k so, which beam search and routers use. XlaCallModule fixes the batch
  size in the function that it calls, but not in a composite's definition, and
  then refuses the symbolic batch that is left there. Calls of that definition
  mean the same, and it follows calls.

  What places arrays on several devices is dropped, since the other dialect that
  says it has no version: TensorFlow runs the program on one.
  """
  context = ir.Context()
  for dialect in (chlo, sdy, stablehlo):
    dialect.register_dialect(context)
  with context, ir.Location.unknown():
    parsed = stablehlo.deserialize_portable_artifact(context, module)
    for composite in _operations(parsed, "stablehlo.composite"):
      with ir.InsertionPoint(composite):
        call = func.CallOp(
          [result.type for result in composite.results],
          composite.attributes["decomposition"],
          list(composite.operands),
        )
      for old, new in zip(composite.results, call.results, strict=True):
        old.replace_all_uses_with(new)
      composite.erase()
    _unshard(parsed)
    return stablehlo.serialize_portable_artifact(parsed, STABLEHLO_VERSION)


def _unshard(module: ir.Module) -> None:
  """Removes every mention of a mesh of devices."""
  for constraint in _operations(module, "sdy.sharding_constraint"):
    constraint.results[0].replace_all_uses_with(constraint.operands[0])
    constraint.erase()
  for function in _operations(module, "func.func"):
    for name in ("arg_attrs", "res_attrs"):
      if name in function.attributes:
        function.attributes[name] = ir.ArrayAttr.get(
          [_without_sharding(each) for each in function.attributes[name]]
        )
  for mesh in _operations(module, "sdy.mesh"):
    mesh.erase()


def _without_sharding(attributes: ir.DictAttr) -> ir.DictAttr:
  return ir.DictAttr.get(
    {each.name: each.attr for each in attributes if each.name != "sdy.sharding"}
  )


def _operations(module: ir.Module, name: str) -> list[ir.Operation]:
  found = []

  def visit(operation: ir.Operation) -> ir.WalkResult:
    if operation.name == name:
      found.append(operation)
    return ir.WalkResult.ADVANCE

  module.operation.walk(visit)
  return found
