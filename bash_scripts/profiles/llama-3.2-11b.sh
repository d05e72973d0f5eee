# Llama-3.2-11B-Vision-Instruct; its cross-attention layers have no text for AD-HH to switch off.
model_path=checkpoints/Llama-3.2-11B-Vision-Instruct
result_path=results/coco/llama-3.2-11b
published_heads=checkpoints/heads/llama-3.2-11b-vision.json
removal_adhh=
