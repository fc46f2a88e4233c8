/* ckpt.h - reads what torch.save writes: .ckpt, .pt, .pth, .bin.
 *
 * Zip form (torch >= 1.6): one member NAME/data.pkl, a pickle that describes tensors
 * as views of storages, and the storages as members NAME/data/KEY. Legacy form: five
 * pickles in a row, then the storages. Source: torch/serialization.py (_save,
 * _legacy_save). The pickle is read as data: see pickle.h.
 *
 * Taken from it: every tensor, or Parameter, that is the value of a string key of the
 * outermost dict, of the dict under its key "state_dict" when there is one, or of a
 * dict nested in that ("outer.inner"). All else (epochs, optimizers in lists,
 * callbacks, complex tensors) is ignored. Rules:
 *   - a storage must be as long as its type and count say; a tensor must lie in its
 *     storage, with strides >= 0, and have no more elements than it (an expanded view
 *     would make a lot of a little); storages may be shared;
 *   - deflated members may unpack to no more than 16 times the file + 64 MiB in all,
 *     and are unpacked when first needed; their CRC-32 is checked, as is the pickle's;
 *   - little-endian only.
 */
#ifndef SDC_ENGINE_CKPT_H
#define SDC_ENGINE_CKPT_H

#include "engine/tensorfile_impl.h"

/* Add the tensors of tf->data to tf. ERR_INPUT, ERR_UNSAFE. */
int ckpt_read_zip(TensorFile *tf, Err *e);
int ckpt_read_legacy(TensorFile *tf, Err *e);

#endif
