from annotator.rankings import outcomes_of, places_of


def test_places_count_tie_groups():
    assert places_of([[7], [8, 9]]) == {7: 0, 8: 1, 9: 1}


def test_outcomes_are_of_the_lower_id():
    assert outcomes_of([[8], [7, 9]]) == {(7, 8): -1, (7, 9): 0, (8, 9): 1}


def test_who_picks_the_best_says_nothing_of_the_others():
    assert outcomes_of([[8], [7, 9]], is_pick=True) == {(7, 8): -1, (8, 9): 1}
