"""Label maps -> numbers and pictures.

In the order of the data: `asked`, `structures` and `kits` say what is scored, `space` whether two
files can be compared, `overlap`, `surface`, `surfels`, `centerline` and `detection` compare two masks,
`cases` one case (`columns` of `tables`), `aggregate` all of them, with the intervals of `bootstrap`,
`evaluate` two folders, `crossval` several folds, `compare` the models of a dataset (by `dice` alone
where many segmentations are tried), `comparison` any `runs` on the same cases (`paired`,
`stability`); `figures` draws a case, `pictures` picks the cases to draw, `strip`, `summary` and
`comparison_page` make the pages. `surgery` needs no reference: it measures what an operation is
planned with.
"""
