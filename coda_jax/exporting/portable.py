"""StableHLO in the older version that the released TensorFlow reads."""

from jax.extend.mlir import ir
from jax.extend.mlir.dialects import chlo, func, sdy, stablehlo

# The StableHLO of tensorflow 2.21; jax writes a newer one by default.
STABLEHLO_VERSION = "1.13.7"


def for_tensorflow(module: bytes) -> bytes:
  """A serialized module, in an older version and without composites.

  A composite is an operation that another function defines. jax writes top_k as
  one, which beam search and routers use. XlaCallModule fixes the batch size in
  the function that it calls and in the functions that this one calls, but not
  in a composite's definition, and then refuses the symbolic batch there. So
  composites become calls of their definitions, which mean the same.

  Operations that place arrays on several devices are dropped: their dialect has
  no versions, and TensorFlow runs the program on one device.
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
  matching = []

  def visit(operation: ir.Operation) -> ir.WalkResult:
    if operation.name == name:
      matching.append(operation)
    return ir.WalkResult.ADVANCE

  module.operation.walk(visit)
  return matching
