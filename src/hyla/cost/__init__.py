"""What a model costs before anyone trains it or rents anything: parameters, bytes, FLOPs, seconds, prices.

Arithmetic only: nothing here imports PyTorch, except the calibration of this machine while it measures.

>>> from hyla.cost import find_target, count_parameters, model_memory
>>> kimi = find_target("kimi-linear-48b-a3b").config
>>> count_parameters(kimi).total
49122681728
>>> model_memory(kimi).published_bytes(context_tokens=1 << 20)
8499134464
"""

from hyla.cost.call import Step, decode, prefill
from hyla.cost.comparison import comparison, crossover
from hyla.cost.device import Device
from hyla.cost.devices import DEVICES, find_device
from hyla.cost.figures import Question, target_report
from hyla.cost.memory import model_memory
from hyla.cost.parallel import Split, rank_bytes
from hyla.cost.parameters import count_parameters, weight_bytes
from hyla.cost.roofline import Serving
from hyla.cost.target import Target, find_target
from hyla.cost.training import train_flops_per_token, train_hours, training_memory
from hyla.cost.twin import full_attention_twin
from hyla.cost.work import arithmetic_intensity, step_work

__all__ = [
    "DEVICES",
    "Device",
    "Question",
    "Serving",
    "Split",
    "Step",
    "Target",
    "arithmetic_intensity",
    "comparison",
    "count_parameters",
    "crossover",
    "decode",
    "find_device",
    "find_target",
    "full_attention_twin",
    "model_memory",
    "prefill",
    "rank_bytes",
    "step_work",
    "target_report",
    "train_flops_per_token",
    "train_hours",
    "training_memory",
    "weight_bytes",
]
