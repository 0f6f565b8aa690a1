import datetime

import pytest

from data_prep import dates, errors

DAY = datetime.date(2001, 7, 11)


@pytest.mark.parametrize("text", ["2001-07-11", "20010711", "2001192", "2001-192", " 2001-07-11"])
def test_one_parser_reads_every_way_to_write_a_date(text):
    assert dates.parse("t2", text) == DAY


@pytest.mark.parametrize(
    "text", ["", "May", "2001-07", "2001366", "20010732", "2001-07-11 12:00", "L_20010711", "711"]
)
def test_what_is_no_date_is_named_with_its_flag(text):
    with pytest.raises(errors.InputError, match=f"--t2: expected dates such as .*'{text}'"):
        dates.parse("t2", text)


def test_dates_in_names_are_those_of_the_calendar():
    assert dates.in_text("MOD09GA.A2001192.h29v12_20010711.tif") == [DAY]
    assert dates.in_text("20010812_20010711") == [DAY, datetime.date(2001, 8, 12)]
    assert dates.in_text("120010711 20011345 2001000") == []
