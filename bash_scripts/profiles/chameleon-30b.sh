# Chameleon 30B, asked as the 7B.
inherit=chameleon-7b
model_path=checkpoints/chameleon-30b
result_path=results/coco/chameleon-30b
published_heads=checkpoints/heads/chameleon-30b.json
batch_size=4
baseline_batch_size=4
