"""The typed integer form of a network: operations, intervals, the reference interpreter and its traces."""

from nsllm_nir.program.operations import *  # noqa: F403 - its __all__: a new operation has one place
from nsllm_nir.program.program import Program as Program
from nsllm_nir.program.signals import DEFAULT_WIDTHS as DEFAULT_WIDTHS
from nsllm_nir.program.signals import Signal as Signal
from nsllm_nir.program.signals import Widths as Widths
from nsllm_nir.program.signals import width as width
from nsllm_nir.program.trace import Trace as Trace
