"""`unlearn doctor`: looks at every part the service leans on, and says of each what to do. Changes nothing that stays.

It works where the service does not: each look stands alone, and what breaks one is its finding. No finding quotes a
secret, a URL or a sample ID.
"""

import time
from collections.abc import Callable, Iterator

from pydantic import ValidationError

from service import setting_forms
from service.doctor import keys, machine, places, settings_fit, store
from service.doctor.finding import Finding, Level
from service.settings import Settings

__all__ = ["Finding", "Level", "examine"]
_LOOKS: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
    ("settings", settings_fit.look),
    ("database", store.look),
    ("keys", keys.look),
    ("broker", places.broker),
    ("artifacts", places.artifacts),
    ("journal", places.journal),
    ("disk", machine.disk),
    ("clock", machine.clock),
    ("device", machine.device),
)


def examine(make_settings: Callable[[], Settings]) -> Iterator[Finding]:
    """Yield what each look finds, as soon as it is found."""
    try:
        settings = make_settings()
    except ValidationError as error:
        for said in setting_forms.faults_of(error):
            yield Finding.fault("settings", said, "Correct the setting; see the README's table.")
        return
    for name, look in _LOOKS:
        yield from _looked(name, look, settings)


def _looked(name: str, look: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    try:
        yield from look(settings)
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is a finding too; messages may quote a secret
        seconds = time.monotonic() - began
        yield Finding.fault(name, f"{type(error).__name__} after {seconds:.1f} s", "The service's log may say more.")
