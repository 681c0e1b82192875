"""Questions on a line, without a line: when they are asked, and whose answer it is."""

import asyncio

from house import until

from drivers._questions import Poll, Questions
from gateway.quantity import Duration, Octets


def test_while_nobody_listens_the_time_of_a_question_stands_still():
    async def main():
        sent, missing = [], []
        poll = Poll(send=Octets("A"), every=Duration(0.01), timeout=Duration(0.02))
        questions = Questions([poll], lambda: missing.append(1), lambda: None)

        async def send(asked):
            sent.append(asked.send)
            if len(sent) == 1:
                questions.pause()
            else:
                questions.answered()

        asking = asyncio.create_task(questions.ask(lambda: None, send))
        await asyncio.sleep(0.2)
        assert (sent, missing) == (["A"], [])
        questions.answered()  # what lay there is read …
        questions.resume()  # … when somebody listens again
        await until(lambda: len(sent) > 3)
        assert not missing
        asking.cancel()

    asyncio.run(main())


def test_what_nobody_answers_is_told_shortly():
    async def main():
        polls = [Poll(send=Octets(f"{n}" * 3000), timeout=Duration(0.01)) for n in range(5)]
        told = []
        questions = Questions(polls, lambda: None, lambda: told.append((questions.silence(), questions.hopeless)))

        async def send(asked):
            pass

        asking = asyncio.create_task(questions.ask(lambda: None, send))
        await until(lambda: len(told) == 5)
        asking.cancel()
        zeros = "0" * 39
        assert told[0] == (f"no answer to '{zeros}…' (1 time)", False)
        assert told[-1][1]
        assert told[-1][0].endswith(" and 2 more")
        assert len(told[-1][0]) < 250

    asyncio.run(main())


def told_by(polls, answer, rounds):
    """What is said after each question that was not answered, and whether anybody is there."""

    async def main():
        told, missing = [], []
        questions = Questions(
            polls, lambda: missing.append(1), lambda: told.append((questions.silence(), questions.hopeless))
        )
        asked = []

        async def send(poll):
            asked.append(poll)
            answer(questions, poll, asked.count(poll))

        asking = asyncio.create_task(questions.ask(lambda: None, send))
        await until(lambda: len(asked) > rounds * len(polls))
        asking.cancel()
        return told, len(missing)

    return asyncio.run(main())


def meter(name):
    return Poll(send=Octets(name), timeout=Duration(0.01), every=Duration(0.02), key=f"meter/{name}")


def test_one_that_never_answers_is_named_by_its_key_and_a_garbled_answer_of_the_other_ends_nothing():
    def answer(questions, poll, times):
        if poll.send == "1":
            questions.alive()
            if times % 3:
                questions.answered()

    told, missing = told_by([meter("1"), meter("2")], answer, 9)
    assert not any(hopeless for _, hopeless in told)
    assert ("no answer from meter/2 (1 time)", False) in told
    assert any(words.startswith("no good answer from meter/1 (1 time), no answer from meter/2 (") for words, _ in told)
    assert 8 <= missing <= 10  # of meter/2 alone


def test_who_answered_once_is_given_several_rounds_before_nobody_is_there():
    def answer(questions, poll, times):
        if times == 1:
            questions.alive()
            questions.answered()

    told, _ = told_by([meter("1")], answer, 6)
    assert told[:4] == [
        ("", False),
        ("no answer from meter/1 (1 time)", False),
        ("no answer from meter/1 (2 times)", False),
        ("no answer from meter/1 (3 times)", True),
    ]


def test_where_nothing_can_be_read_for_ten_rounds_that_is_no_life_either():
    told, missing = told_by([meter("1")], lambda questions, poll, times: questions.alive(), 12)
    assert [hopeless for _, hopeless in told[:11]] == [False] * 9 + [True] * 2
    assert told[9][0] == "no good answer from meter/1 (10 times)"
    assert missing == 0


def test_questions_that_share_a_key_are_told_apart():
    polls = [Poll(send=Octets(name), timeout=Duration(0.01), key="m") for name in "AB"]
    told, _ = told_by(polls, lambda questions, poll, times: None, 0.5)
    assert told[0][0] == "no answer from m to 'A' (1 time)"
