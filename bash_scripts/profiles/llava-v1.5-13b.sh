# LLaVA-1.5-13B as published (liuhaotian/llava-v1.5-13b), or else llava-hf/llava-1.5-13b-hf.
# The paper switches off all 35 heads of its list (--heads published) at 0.4. Checkpoints of its tuning were not published.
# Needs, by estimate (weights in half precision, and a quarter of that to work in): 26 GB of files, 33 GB of GPU memory;
# about twice the time of 7B.
model_path="checkpoints/llava-v1.5-13b | checkpoints/llava-1.5-13b-hf"
result_path=results/coco/llava-v1.5-13b
top_k=35
batch_size=4
baseline_batch_size=4
base_model=checkpoints/vicuna-13b-v1.5
