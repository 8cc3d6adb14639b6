"""The automatic detector's members: what is stored of one is what is read back."""

from __future__ import annotations

import json

import pytest

from pipelines.auto import Member, View, members

APART = Member("gmm", {"window": 4}, View.PLAIN, limit=8.0, apart=True, finds="spikes")


@pytest.mark.parametrize(
    "member", [APART, *members({}, 1, 5000)], ids=lambda member: f"{member.detector}-{member.finds}"
)
def test_a_member_comes_back_from_json_as_it_was(member: Member) -> None:
    assert Member.from_json(json.loads(json.dumps(member.to_json()))) == member
