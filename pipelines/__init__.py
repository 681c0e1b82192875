"""BETWEEN: one file per step; the file's name is the step's key in the configuration. The language is in language/.

A step is not called per record. It is called once, when a configuration is loaded, and writes its part of the loop that
will run over batches. A complete one (`/etc/tidegate/plugins/steps/scale.py`, used as `- scale: {field: v, by: 0.1}`):

    import msgspec
    from gateway.plugin import Plugin
    from pipelines.language import Code, Expression

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        field: str
        by: Expression

    class Scale:
        def __init__(self, options: Options) -> None:
            self.options = options

        def write(self, code: Code) -> None:
            product = code.value(f"{self.options.field} * ({self.options.by})", "by")
            code.define(self.options.field, code.assign(product, "by"), "field")

    plugin = Plugin(Options, Scale)

`write(code)` is all of it. What it may do (pipelines.language.Code has the details):

- read: `code.value(text, *where)` checks an expression of the options, notes mistakes at `where` in them, and gives
  code and type. `code.time`, `code.key`, `code.touch` are code of the record's event time, key, and arrival.
- name: `code.define(name, value)` names a field for the steps that follow.
- write: `code.write(line, *where)` and `with code.block("if …:")`. Inside the loop `continue` drops the record, which
  `code.count(name)` counts, and `raise Reject("why")` makes it a dead letter. Only code from `code` and names from
  `code.local()` and `code.constant(thing)` go into a line, never text that a user wrote.
- remember: `code.state(state)` adds an object with `save`, `load` and `stats`. What it holds is a value per key (and
  window) of plain data, so that it can be snapshotted here and can live in a keyed store elsewhere. Numbers stay within
  64 bits. It is changed by the last lines a step writes, so that a record that fails has changed nothing in it. It is
  bounded by `code.max_keys`; what it evicts it counts.
  What it keeps of each key alone it need not write itself: `Keyed` is looked up in one line and makes room.
- wait: `code.timed(state)` has `state.fire(out)` called as the watermark reaches `state.due`. Deadlines act in their
  order, across all steps. `code.reschedule()` follows code that may have made `due` earlier. `Deadlines` keeps one per
  key.
- lead on: `code.rows(state, stage)` starts a new loop over what leaves the state, by `state.rows(out, records, …)`.
  `code.shape(payload)` says what is sent, `code.deliver(streams, key)` sends it, `code.set_aside(stream)` what came.
  `code.outputs(names, *where)` checks names of streams from the options and makes them outputs of the pipeline.
  `code.leave()` lets a pipeline end with this step without a `to:`. A class with `only_says_where = True` may follow
  `emit`; after one with `names_fields = True` whose options are wrong, nobody complains of fields that are not known.

`deadband` and `throttle` are short steps that keep something of each key; `alarm` also waits for time.

A step sees nothing but the records and the time that passes: no clock, no files, no network, no other step's state. So
what it does depends on the order of records alone, and running it again gives the same bytes.
"""
