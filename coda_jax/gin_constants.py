"""What gin files call %params.ALL_PATTERNS and %params.TASK_PATTERNS.

A gin file that uses them imports this module, so that it can be read by other
programs than ours: t5x's.
"""

import gin

from coda_jax import params

gin.constant("params.ALL_PATTERNS", params.ALL_PATTERNS)
gin.constant("params.TASK_PATTERNS", params.TASK_PATTERNS)
