"""diagnose() names the fault in every broken pair, and finds none in a right one."""

import re

import pytest
from broken import BROKEN

from pvae.faults import diagnose


@pytest.mark.parametrize("pair", BROKEN, ids=lambda pair: pair.__name__)
def test_the_fault_is_named_with_what_to_change(pair):
    model, guide, batch, loss = pair()
    found = diagnose(model, guide, batch, loss=loss)
    fault, remedy = BROKEN[pair]
    assert len(found.faults) == 1, found
    assert re.search(fault, found.faults[0]), found
    assert re.search(remedy, found.faults[0]), found
