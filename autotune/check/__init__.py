"""The numeric gate without a GPU: a candidate's own machine code, executed on a sample of its workgroups.

    listing = backend.listing(layer, tokens, stage, config, device)
    verdict, executed = check.execute("triton", layer, tokens, stage, config, listing)

`verdict.status` is `pass` with the error, `incorrect`, `fault` (what hardware would turn into wrong numbers
or a crash) or `not_emulated`, which judges nothing and never is a pass. The binary is the one that would be
launched: its N and K are compiled in. Its operands are not the whole layer's: `sample` chooses blocks and
column tiles that meet every code path, and only the experts that those touch have weights; whatever reads
another is a fault.

What a sample cannot show: a path that depends on a column tile's number other than first, middle and last;
races between workgroups, which run one after another here; anything that `autotune.emulate` leaves out.

Numpy only: no torch, no GPU.
"""
