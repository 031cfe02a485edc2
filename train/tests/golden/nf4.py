"""NF4 by its definition (QLoRA, section 3 and appendix E), for tests/lora.rs (run: python nf4.py; writes nf4.safetensors beside itself).

Quantiles of the normal distribution at equal steps from 1/2 to 1 - (1/30 + 1/32)/2, 8 above zero and 7 below, with zero between, divided by the
largest. A block of 64 is divided by its largest magnitude and each number becomes the nearest value (found by comparing with all 16).
`values` [4, 96] is the test's formula cubed, so that blocks differ in size; `rounded` what is left of it.
"""
import os
from statistics import NormalDist

import torch
from safetensors.torch import save_file

offset = 1 - (1 / 30 + 1 / 32) / 2
steps = lambda n: [NormalDist().inv_cdf(offset + (0.5 - offset) * i / n) for i in range(n)]
table = sorted(steps(8) + [0.0] + [-q for q in steps(7)])
table = torch.tensor([q / max(table) for q in table], dtype=torch.float64)
i = torch.arange(4 * 96, dtype=torch.int64)
values = ((((i * 7919 + 3 * 104729) % 1009).double() / 1009 - 0.5).float() ** 3).reshape(4, 96)
blocks = values.double().reshape(-1, 64)
scale = blocks.abs().amax(1, keepdim=True)
nearest = (blocks / scale).unsqueeze(-1).sub(table).abs().argmin(-1)
rounded = (table[nearest] * scale).reshape(4, 96)
save_file({"table": table.float(), "values": values, "rounded": rounded.float()}, os.path.join(os.path.dirname(os.path.abspath(__file__)), "nf4.safetensors"))
print(table.tolist())
