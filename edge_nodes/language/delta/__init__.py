# SPDX-License-Identifier: Apache-2.0
"""Delta-sparse attention: the rule, its count of skipped work, its thresholds."""
