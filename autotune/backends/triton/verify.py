"""Our own operator's lookup, run on a bundle, and what our kernels need of a machine."""

from pathlib import Path
from typing import Final

from autotune.backends.triton.export import VARIABLE
from autotune.errors import UserError
from autotune.kernels.tuned import load_tuned
from autotune.problem.layer import Stage
from autotune.protocol.bundle import Bundle
from autotune.protocol.doctor import Ability, Doctor, Machine
from autotune.protocol.form import ANY, NAME, SCALAR, TOKENS, Form
from autotune.protocol.lookup import Check, Serving, Verification, Verifier
from autotune.space.config import value_text


class TritonDoctor(Doctor):
    """See `protocol.doctor.Doctor`."""

    def ability(self, machine: Machine) -> Ability:
        return machine.able_with_triton()


_FORM: Final[Form] = {"intended": {TOKENS: {f"{stage}?": {NAME: SCALAR} for stage in Stage}}, **ANY}


class OperatorVerifier(Verifier):
    """Looks every tuned count up as `fused_moe_w4a8` does; the lookup is our own."""

    form = _FORM

    def verify(self, bundle: Bundle, serving: Serving) -> Verification:
        intended = bundle.lookup("triton")["intended"]
        where = bundle.here(VARIABLE)
        if where is None:
            reason = f"variable: autotune.env does not set {VARIABLE}, so the operator runs with its defaults"
            return Verification("triton", (), (reason, *bundle.changed()))
        load_tuned.cache_clear()
        try:
            tuned = load_tuned(Path(where))
        except UserError as error:
            return Verification("triton", (), (f"file: {error}", *bundle.changed()))
        checks = []
        for m, stages in sorted(intended.items(), key=lambda item: int(item[0])):
            # Tuned counts are in the file, so whose default fills the gaps does not matter here.
            selected = tuned.at(int(m), "gfx942")
            for stage, entry in stages.items():
                taken = vars(getattr(selected, stage))
                ok = all(taken.get(name) == value for name, value in entry.items())
                text = " ".join(f"{name}={value_text(taken.get(name))}" for name in entry)
                wanted = " ".join(f"{name}={value_text(value)}" for name, value in entry.items())
                checks.append(Check(f"{stage} at {m} tokens", text, ok, "" if ok else wanted))
        wrong = [check for check in checks if not check.ok]
        reasons = [
            f"bucket: {check.subject} gets {check.found}, meant was {check.expected}" for check in wrong
        ]
        return Verification(f"triton at {where}", tuple(checks), (*reasons, *bundle.changed()))
