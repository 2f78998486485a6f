"""Defines the %params patterns of trained leaves for gin files.

A gin file that uses them imports this module, so t5x's programs can read it
too.
"""

import gin

from coda_jax import params

gin.constant("params.ADDED_PATTERNS", params.ADDED_PATTERNS)
gin.constant("params.ALL_PATTERNS", params.ALL_PATTERNS)
gin.constant("params.TASK_PATTERNS", params.TASK_PATTERNS)
