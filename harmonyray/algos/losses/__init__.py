"""Policy losses per token, one file each, as plug-ins. torch only; nothing distributed.

A loss gives (loss, whether its clip was active) of a micro-batch's response tokens, each [number of them], from their log-probs,
those under the policy they are compared with (nats), their advantages, and the row that each token belongs to.
"""
