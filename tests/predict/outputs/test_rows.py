"""Rows of tables between where they are made and where they are written."""

from segmentation.predict.outputs.rows import Rows


def test_rows_come_back_as_often_as_they_are_asked_for() -> None:
    rows = Rows()
    assert list(rows) == []
    rows.add([{"image": "Zelle ä", "area": 3, "solidity": 0.1}, {"area": 5}])
    rows.add([])
    rows.add([{"area": 7}])
    for _ in range(2):
        assert list(rows) == [
            {"image": "Zelle ä", "area": 3, "solidity": 0.1},
            {"area": 5},
            {"area": 7},
        ]
