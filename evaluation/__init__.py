"""Label maps -> numbers and pictures.

In the order of the data: `structures` says what is scored, `space` whether two files can be
compared, `overlap`, `surface` and `centerline` compare two masks, `cases` one case, `aggregate` all
of them, `evaluate` two folders, `crossval` several folds, `compare` several models (by `dice` alone
where many segmentations are tried); `figures` draws a case, `pictures` picks the cases to draw,
`strip` and `summary` make the page. `surgery` needs no reference: it measures what an operation is
planned with.
"""
