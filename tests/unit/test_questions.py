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

        async def send(data):
            sent.append(data)
            if len(sent) == 1:
                questions.pause()
            else:
                questions.answered()

        asking = asyncio.create_task(questions.ask(send))
        await asyncio.sleep(0.2)
        assert (sent, missing) == ([b"A"], [])
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
        questions = Questions(polls, lambda: None, lambda: told.append((questions.silence(), questions.all_silent)))

        async def send(data):
            pass

        asking = asyncio.create_task(questions.ask(send))
        await until(lambda: len(told) == 5)
        asking.cancel()
        zeros = "0" * 39
        assert told[0] == (f"no answer to '{zeros}…' (1 times)", False)
        assert told[-1][1]
        assert told[-1][0].endswith(" and 2 more")
        assert len(told[-1][0]) < 250

    asyncio.run(main())
