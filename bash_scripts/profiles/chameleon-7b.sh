# Chameleon 7B. The paper asks with the image after the question; without <image> in the question the image comes first.
model_path=checkpoints/chameleon-7b
result_path=results/coco/chameleon-7b
published_heads=checkpoints/heads/chameleon-7b.json
question="Please describe this image in detail.<image>"
