"""A label map -> the numbers that a partial nephrectomy is planned with.

In the order of the data: `numbers` and `records` are what comes out, `frame` says where voxels lie in
the patient, `anatomy` what the labels are, `sides` divides the scan into kidneys. `mesh` and `shape`
measure a tumor, `outline` and `hilum` the kidney it sits on, `position` the one against the other;
`renal`, `padua` score it, `resection` removes it. `tree` (with `skeleton`, `calibre`, `breaks`) makes
arteries of their mask, `territories` divides the parenchyma among them, `clamping` closes them.
`kidney` puts one kidney together, `variation` shakes it, `report` is the entry: `surgery_numbers`,
`surgery_report`.

Formulas, sources, and what the numbers do not mean: docs/surgery.md.
"""
