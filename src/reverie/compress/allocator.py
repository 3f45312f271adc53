"""Choose one option for every site of a network, at the least loss within every budget; exactly.

What for: pruning, replacing, factorising, skipping and quantising all end here. A site is a place in the network, an
option is something that could be done there, with what it does to the loss and what it leaves of each cost. Costs
may also couple two sites: the time of a convolution depends on the width of its input and of its output at once.

The problem, over one-hot x_s for every site s and every coupled pair (s, t):

    minimise    sum_s loss_s . x_s
    subject to  sum_s cost_s . x_s + sum_(s,t) x_s' T_st x_t <= budget      for every budget

The products are made linear exactly in local-marginal form: y >= 0 with row sums x_s and column sums x_t equals the
product x_s x_t' whenever x is binary, so only x need be binary. SciPy's HiGHS proves the optimum.

Cost: milliseconds for a hundred sites of hundreds of options; seconds where hundreds of pairs couple them.

Reference: Shen et al., 2022, "Structural pruning via latency-saliency knapsack", arXiv:2210.06659, for the knapsack;
Wainwright and Jordan, 2008, "Graphical models, exponential families, and variational inference", section 4.1, for the
local-marginal polytope. Differs: both widths of a layer vary at once, any number of budgets, and the result is
optimal, not a heuristic of dynamic programming.
"""
