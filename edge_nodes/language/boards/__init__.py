# SPDX-License-Identifier: Apache-2.0
"""One model over several boards; the only part of the language domain that needs torch (torch.distributed)."""
