# LLaVA-1.6-34B as published (liuhaotian/llava-v1.6-34b), or else llava-hf/llava-v1.6-34b-hf.
# The paper switches off the 10 heads of its list (--heads published) at 0.4. Checkpoints of its tuning were not published.
# Its scripts asked in the prompt of LLaVA-1.5: `"prompt": "vicuna_v1"` in the folder's config.json does so, else it is ChatML.
# Needs, by estimate (weights in half precision, and a quarter of that to work in): 69 GB of files, 87 GB of GPU memory
# over one or more GPUs (device_map=auto); an image is 2,000 to 3,000 tokens, so about eight times the time of 7B.
model_path="checkpoints/llava-v1.6-34b | checkpoints/llava-v1.6-34b-hf"
result_path=results/coco/llava-v1.6-34b
top_k=10
batch_size=2
baseline_batch_size=2
base_model=checkpoints/Nous-Hermes-2-Yi-34B
