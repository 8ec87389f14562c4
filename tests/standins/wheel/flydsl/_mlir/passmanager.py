import json
import os
import sys

from flydsl.compiler import llvm_options

_TEXT = """\t.text
kernel:
{body}\ts_endpgm
\t.amdhsa_kernel kernel
\t.end_amdhsa_kernel
amdhsa.kernels:
  - .agpr_count:     0
    .group_segment_fixed_size: {lds}
    .sgpr_count:     40
    .vgpr_count:     {vgprs}
    .vgpr_spill_count: 0
"""


class PassManager:
    """Turns the toy module, JSON behind `module `, into assembly text as an MLIR string."""

    def __init__(self, fragment):
        self.fragment = fragment

    @classmethod
    def parse(cls, text):
        return cls(text)

    def run(self, module):
        assert "format=isa" in self.fragment
        kernel = json.loads(module.text.removeprefix("module "))
        if kernel["lds"] > 65536 and kernel["generation"] == "published":
            # LLVM's way in the published generation's wheel: no exception, exit code 1.
            print(f"error: local memory ({kernel['lds']}) exceeds limit (65536)", file=sys.stderr, flush=True)
            os._exit(1)
        waits = kernel["waits"] + 7 * len(llvm_options.active)
        body = "\ts_waitcnt vmcnt(0)\n" * waits + "\tv_mfma_i32_16x16x32_i8 a[0:3], v[0:1], v[2:3], a[0:3]\n"
        text = _TEXT.format(body=body, lds=kernel["lds"], vgprs=kernel["vgprs"])
        module.text = 'object = #gpu<assembly = "' + text.replace("\n", "\\0A").replace("\t", "\\09") + '">'
