from ci import readme


def test_two():
    assert len(readme.commands()) == 2
